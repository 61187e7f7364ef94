"""Methods that are implemented, by name: the title that a card gives them and the BibTeX of their sources.

A name is the one under which a method is trained; a sequential model's is the `model_type` of its configuration. A
method that is not in the table has its name as title and no citation: a card cites the method it describes or none.
"""

from typing import NamedTuple


class Method(NamedTuple):
    """A method as a card names it.

    Args:
        title (`str`): Its name as the field writes it.
        citation (`str`, *optional*): BibTeX entries of its sources, a blank line between them.
    """

    title: str
    citation: str | None = None


_UTGREC = """\
@article{zheng2025universal,
  title   = {Universal Item Tokenization for Transferable Generative Recommendation},
  author  = {Zheng, Bowen and Lu, Hongyu and Chen, Yu and Zhao, Wayne Xin and Wen, Ji-Rong},
  journal = {arXiv preprint arXiv:2504.04405},
  year    = {2025}
}"""

_RECBASE = """\
@inproceedings{zhou2025recbase,
  title     = {RecBase: Generative Foundation Model Pretraining for Zero-Shot Recommendation},
  author    = {Zhou, Sashuai and Gan, Weinan and Liu, Qijiong and Lei, Ke and Zhu, Jieming and Huang, Hai and Xia, Yan
               and Tang, Ruiming and Dong, Zhenhua and Zhao, Zhou},
  booktitle = {Proceedings of the 2025 Conference on Empirical Methods in Natural Language Processing},
  year      = {2025},
  doi       = {10.48550/arXiv.2509.03131}
}"""

_TIGER = """\
@inproceedings{rajput2023recommender,
  title     = {Recommender Systems with Generative Retrieval},
  author    = {Rajput, Shashank and Mehta, Nikhil and Singh, Anima and Keshavan, Raghunandan Hulikal and Vu, Trung and
               Heldt, Lukasz and Hong, Lichan and Tay, Yi and Tran, Vinh Q. and Samost, Jonah and Kula, Maciej and
               Chi, Ed H. and Sathiamoorthy, Mahesh},
  booktitle = {Advances in Neural Information Processing Systems 36 (NeurIPS 2023)},
  year      = {2023}
}"""

_LETTER = """\
@inproceedings{wang2024learnable,
  title     = {Learnable Item Tokenization for Generative Recommendation},
  author    = {Wang, Wenjie and Bao, Honghui and Lin, Xinyu and Zhang, Jizhi and Li, Yongqi and Feng, Fuli and
               Ng, See-Kiong and Chua, Tat-Seng},
  booktitle = {Proceedings of the 33rd ACM International Conference on Information and Knowledge Management},
  year      = {2024},
  doi       = {10.1145/3627673.3679569}
}"""

_RESIDUAL_QUANTIZATION = """\
@article{chen2010approximate,
  title   = {Approximate Nearest Neighbor Search by Residual Vector Quantization},
  author  = {Chen, Yongjian and Guan, Tao and Wang, Cheng},
  journal = {Sensors},
  volume  = {10},
  number  = {12},
  pages   = {11259--11273},
  year    = {2010}
}"""

_SASREC = """\
@inproceedings{kang2018self,
  title     = {Self-Attentive Sequential Recommendation},
  author    = {Kang, Wang-Cheng and McAuley, Julian},
  booktitle = {IEEE International Conference on Data Mining (ICDM 2018)},
  pages     = {197--206},
  year      = {2018},
  doi       = {10.1109/ICDM.2018.00035}
}"""

_GRU4REC = """\
@inproceedings{hidasi2016session,
  title     = {Session-based Recommendations with Recurrent Neural Networks},
  author    = {Hidasi, Bal{\\'a}zs and Karatzoglou, Alexandros and Baltrunas, Linas and Tikk, Domonkos},
  booktitle = {4th International Conference on Learning Representations (ICLR 2016)},
  year      = {2016},
  url       = {https://arxiv.org/abs/1511.06939}
}"""

_BERT4REC = """\
@inproceedings{sun2019bert4rec,
  title     = {{BERT4Rec}: Sequential Recommendation with Bidirectional Encoder Representations from Transformer},
  author    = {Sun, Fei and Liu, Jun and Wu, Jian and Pei, Changhua and Lin, Xiao and Ou, Wenwu and Jiang, Peng},
  booktitle = {Proceedings of the 28th ACM International Conference on Information and Knowledge Management},
  pages     = {1441--1450},
  year      = {2019},
  doi       = {10.1145/3357384.3357895}
}"""

_FMLP_REC = """\
@inproceedings{zhou2022filter,
  title     = {Filter-enhanced {MLP} is All You Need for Sequential Recommendation},
  author    = {Zhou, Kun and Yu, Hui and Zhao, Wayne Xin and Wen, Ji-Rong},
  booktitle = {Proceedings of the ACM Web Conference 2022 (WWW 2022)},
  pages     = {2388--2399},
  year      = {2022},
  doi       = {10.1145/3485447.3512111}
}"""

_BSAREC = """\
@inproceedings{shin2024attentive,
  title     = {An Attentive Inductive Bias for Sequential Recommendation beyond the Self-Attention},
  author    = {Shin, Yehjin and Choi, Jeongwhan and Wi, Hyowon and Park, Noseong},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  volume    = {38},
  number    = {8},
  pages     = {8984--8992},
  year      = {2024}
}"""

_HSTU = """\
@inproceedings{zhai2024actions,
  title     = {Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
               Recommendations},
  author    = {Zhai, Jiaqi and Liao, Lucy and Liu, Xing and Wang, Yueming and Li, Rui and Cao, Xuan and Gao, Leon and
               Gong, Zhaojie and Gu, Fangda and He, Jiayuan and Lu, Yinghai and Shi, Yu},
  booktitle = {Proceedings of the 41st International Conference on Machine Learning (ICML 2024)},
  series    = {Proceedings of Machine Learning Research},
  volume    = {235},
  pages     = {58484--58509},
  year      = {2024}
}"""

_FDSA = """\
@inproceedings{zhang2019feature,
  title     = {Feature-level Deeper Self-Attention Network for Sequential Recommendation},
  author    = {Zhang, Tingting and Zhao, Pengpeng and Liu, Yanchi and Sheng, Victor S. and Xu, Jiajie and
               Wang, Deqing and Liu, Guanfeng and Zhou, Xiaofang},
  booktitle = {Proceedings of the Twenty-Eighth International Joint Conference on Artificial Intelligence
               (IJCAI 2019)},
  pages     = {4320--4326},
  year      = {2019},
  doi       = {10.24963/ijcai.2019/600}
}"""

_S3REC = """\
@inproceedings{zhou2020s3rec,
  title     = {{S3-Rec}: Self-Supervised Learning for Sequential Recommendation with Mutual Information Maximization},
  author    = {Zhou, Kun and Wang, Hui and Zhao, Wayne Xin and Zhu, Yutao and Wang, Sirui and Zhang, Fuzheng and
               Wang, Zhongyuan and Wen, Ji-Rong},
  booktitle = {Proceedings of the 29th ACM International Conference on Information and Knowledge Management},
  pages     = {1893--1902},
  year      = {2020},
  doi       = {10.1145/3340531.3411954}
}"""

_MISSREC = """\
@inproceedings{wang2023missrec,
  title     = {{MISSRec}: Pre-training and Transferring Multi-modal Interest-aware Sequence Representation for
               Recommendation},
  author    = {Wang, Jinpeng and Zeng, Ziyun and Wang, Yunxiao and Wang, Yuting and Lu, Xingyu and Li, Tianxiang and
               Yuan, Jun and Zhang, Rui and Zheng, Hai-Tao and Xia, Shu-Tao},
  booktitle = {Proceedings of the 31st ACM International Conference on Multimedia},
  pages     = {6548--6557},
  year      = {2023},
  doi       = {10.1145/3581783.3611967}
}"""

_UNISREC = """\
@inproceedings{hou2022towards,
  title     = {Towards Universal Sequence Representation Learning for Recommender Systems},
  author    = {Hou, Yupeng and Mu, Shanlei and Zhao, Wayne Xin and Li, Yaliang and Ding, Bolin and Wen, Ji-Rong},
  booktitle = {Proceedings of the 28th ACM SIGKDD Conference on Knowledge Discovery and Data Mining (KDD 2022)},
  pages     = {585--593},
  year      = {2022},
  doi       = {10.1145/3534678.3539381}
}"""

_VQREC = """\
@inproceedings{hou2023learning,
  title     = {Learning Vector-Quantized Item Representation for Transferable Sequential Recommenders},
  author    = {Hou, Yupeng and He, Zhankui and McAuley, Julian and Zhao, Wayne Xin},
  booktitle = {Proceedings of the ACM Web Conference 2023 (WWW 2023)},
  pages     = {1162--1171},
  year      = {2023},
  doi       = {10.1145/3543507.3583434}
}"""

_SLIT = """\
@inproceedings{choi2021session,
  title     = {Session-aware Linear Item-Item Models for Session-based Recommendation},
  author    = {Choi, Minjin and Kim, Jinhong and Lee, Joonseok and Shim, Hyunjung and Lee, Jongwuk},
  booktitle = {Proceedings of the Web Conference 2021 (WWW 2021)},
  pages     = {2186--2197},
  year      = {2021},
  doi       = {10.1145/3442381.3450005}
}"""

_EASE = """\
@inproceedings{steck2019embarrassingly,
  title     = {Embarrassingly Shallow Autoencoders for Sparse Data},
  author    = {Steck, Harald},
  booktitle = {The World Wide Web Conference (WWW 2019)},
  pages     = {3251--3257},
  year      = {2019},
  doi       = {10.1145/3308558.3313710}
}"""

_MARIUS = """\
@article{lepage2025closing,
  title   = {Closing the Performance Gap in Generative Recommenders with Collaborative Tokenization and Efficient
             Modeling},
  author  = {Lepage, Simon and Mary, Jeremie and Picard, David},
  journal = {arXiv preprint arXiv:2508.14910},
  year    = {2025}
}"""

_RQ_TRANSFORMER = """\
@inproceedings{lee2022autoregressive,
  title     = {Autoregressive Image Generation using Residual Quantization},
  author    = {Lee, Doyup and Kim, Chiheon and Kim, Saehoon and Cho, Minsu and Han, Wook-Shin},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  pages     = {11523--11532},
  year      = {2022}
}"""

METHODS = {
    "utgrec": Method("UTGRec", _UTGREC),
    "recbase": Method("RecBase", _RECBASE),
    "tiger": Method("TIGER", _TIGER),
    "letter": Method("LETTER", _LETTER),
    # Without a paper of their own: TIGER on text and images, and a T5 on the codes of residual k-means.
    "tiger-m": Method("TIGER-M", _TIGER),
    "rq-kmeans": Method("RQ-k-means", _RESIDUAL_QUANTIZATION),
    # of text and of the training's transitions side by side
    "rq-kmeans-transitions": Method("RQ-k-means transitions", _RESIDUAL_QUANTIZATION),
    # A timeline over items and a depth head, on the codes of any item tokenizer.
    "item_level": Method("Item-level recommender", f"{_MARIUS}\n\n{_RQ_TRANSFORMER}"),
    "sasrec": Method("SASRec", _SASREC),
    "gru4rec": Method("GRU4Rec", _GRU4REC),
    "bert4rec": Method("BERT4Rec", _BERT4REC),
    "fmlprec": Method("FMLP-Rec", _FMLP_REC),
    "bsarec": Method("BSARec", _BSAREC),
    "hstu": Method("HSTU", _HSTU),
    "fdsa": Method("FDSA", _FDSA),
    "s3rec": Method("S3-Rec", _S3REC),
    "unisrec": Method("UniSRec", _UNISREC),
    "missrec": Method("MISSRec", _MISSREC),
    "vqrec": Method("VQ-Rec", _VQREC),
    # Item transitions in closed form, after SLIT; the ridge regression is EASE's.
    "linear": Method("Linear item-item model", f"{_SLIT}\n\n{_EASE}"),
}
_SEMANTIC_IDS = ("tiger", "letter", "tiger-m", "rq-kmeans", "rq-kmeans-transitions")
# RecBase's decoder in place of a T5, on the codes of another item tokenizer.
METHODS |= {
    f"{name}-decoder": Method(f"{METHODS[name].title} (decoder)", f"{METHODS[name].citation}\n\n{_RECBASE}")
    for name in _SEMANTIC_IDS
}
# An item-level recommender in its place.
METHODS |= {
    f"{name}-item-level": Method(
        f"{METHODS[name].title} (item level)", f"{METHODS[name].citation}\n\n{METHODS['item_level'].citation}"
    )
    for name in _SEMANTIC_IDS
}


def method_named(name: str | None) -> Method | None:
    """The method of a name; one that is not in the table has its name as title, and `None` has none."""
    return None if name is None else METHODS.get(name, Method(name))
